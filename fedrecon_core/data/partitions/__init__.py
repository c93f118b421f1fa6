"""Who holds which training sample: one file per scheme."""
