"""What a compressed model is: edits, maps, swaps, the surgeon that performs them, and the names of channels."""
