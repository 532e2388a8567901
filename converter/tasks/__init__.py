"""What dense networks are for, finding boxes and naming pixels: their outputs read, their labels, how well they do."""
