"""What took the processor while a benchmark ran: this ctbatch by stage, and everybody else."""
