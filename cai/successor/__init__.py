"""From one generation to the next: stages in a plan, run in order, each done once and resumed when cut off."""
