"""What the verbs return: numbers, and everything behind them."""
