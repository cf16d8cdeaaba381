"""How a search goes: configs, capacity, fitness, strategies, tracking, reports, the CLI."""
