"""The Azure ML REST shapes, one file a resource; they translate and call."""
