"""Where processor time goes: counted in each process by stage, and added up in the database."""
