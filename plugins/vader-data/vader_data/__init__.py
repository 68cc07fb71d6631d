"""From raw footage to a training table: cut, score, caption, filter, dedup, export, report."""
