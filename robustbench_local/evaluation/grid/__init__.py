"""The grid file: its schema, and how its entries are looked up."""
