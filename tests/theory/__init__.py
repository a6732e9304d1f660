"""The closed forms against sums, fixed-point iterations, scipy, high precision and seeded Monte Carlo."""
