"""One file per family: Config, Model and the map of weight names. The file's name is the model's type."""
