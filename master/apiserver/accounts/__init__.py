"""ServiceAccounts: who pods are. Their tokens are made, read, and given to pods here."""
