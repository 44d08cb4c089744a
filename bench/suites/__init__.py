"""`nkiconv bench --suite ...`: named convolutions through the simulator and PyTorch, side by side.

`works` names them, `measure` runs one, `report` reads and writes JSON, `compare` holds a run
against an earlier one, and `tables`, `plots` and `page` show it.
"""
