"""Packaged YAML files; read them with `importlib.resources.files("erode.configs")`."""
