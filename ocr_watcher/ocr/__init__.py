"""From a page to lines of text: the engine, its models, and how they are run."""
