"""The pages. Each module with routes is one blueprint of thin views over `db`."""
