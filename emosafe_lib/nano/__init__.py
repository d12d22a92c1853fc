"""How the nano ladder was made, from raw text to the weights in `assets/nano`. Notebook A1 calls it."""
