"""Example inputs for any Hugging Face model: `choice.example_inputs`."""
