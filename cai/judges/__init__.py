"""Ways of asking a model which of two answers follows a principle better. One Protocol, one Verdict."""
