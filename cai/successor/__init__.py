"""From one generation to the next: a plan of stages, run one after the other, each done once and resumed when cut off."""
