"""Training samples dreamt from annotated frames."""
