"""What the federation knows, and how a run goes."""
