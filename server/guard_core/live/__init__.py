"""An answer that is judged while it is written: which beginnings of it, and what may be shown."""
