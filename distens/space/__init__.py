"""What `members` leaves open: ranges, choices and conditions, drawn from and encoded."""
