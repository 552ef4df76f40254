"""LightningDataModules that emit retain/forget splits of coarse masks."""
