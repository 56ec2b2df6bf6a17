"""What a site does with an order."""
