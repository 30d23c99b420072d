"""The field: one tiny random model per model type of the libraries, built generically by shrinking their configs."""
