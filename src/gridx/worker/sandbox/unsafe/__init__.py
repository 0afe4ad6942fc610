"""No sandbox at all: for owners who trust everybody whose jobs their worker may get."""
