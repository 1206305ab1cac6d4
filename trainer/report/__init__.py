"""What people read: the page, the card, the table."""
