"""The search space that `members` leaves open: ranges, choices and conditions, to draw from and to encode."""
