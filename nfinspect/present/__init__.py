"""How numbers, tables, charts and figures look: charts as data, and what draws them."""
