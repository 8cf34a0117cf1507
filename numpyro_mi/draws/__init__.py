"""Joint draws: simulated ones and those of users, their keys, and what only draws can show."""
