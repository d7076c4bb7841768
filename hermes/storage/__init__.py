"""Files: durable writes, and reads that trust nothing in them."""
