"""Published models put to work: what of them is loaded how."""
