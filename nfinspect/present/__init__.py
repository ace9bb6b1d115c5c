"""How figures and charts look, whatever they are of: charts as data, and what draws them."""
