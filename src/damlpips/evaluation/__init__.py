"""How well a metric agrees with people: judged image sets, figures of agreement, and any metric by name."""
