"""The command line: `cai …`, and what recipes share with it."""
