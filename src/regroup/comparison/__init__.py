"""Train one backbone with many strategies and put the results side by side."""
