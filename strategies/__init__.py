"""What server and sites share: message keys, strategies with their local halves, the code hash."""
