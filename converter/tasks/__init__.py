"""What dense networks are for, finding boxes and naming pixels: outputs, labels, how well they do."""
