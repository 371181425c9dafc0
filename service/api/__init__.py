"""HTTP workers: validate, forward to the engine that serves, shape the answer. They hold no model and no catalog."""
