"""What a data set is: CIFAKE, the embedded sample, single pictures, and the audit of a data set."""
