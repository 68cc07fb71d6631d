"""Several processes as one: how they are laid out, what is split over them, what they tell each other."""
