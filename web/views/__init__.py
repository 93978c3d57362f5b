"""The pages people use; each module is one blueprint of thin views over `db`."""
