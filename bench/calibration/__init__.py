"""Published kernels rebuilt, and their modelled times beside those measured on hardware."""
