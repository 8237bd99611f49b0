"""`meap preprocess text --length-upsample`: choose documents so that long ones contain more of the tokens."""
