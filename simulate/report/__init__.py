"""Profiles as text, JSON, a Perfetto trace and one HTML page; every time in them is modelled."""

from __future__ import annotations

from nkiconv.simulate.report._summary import profile_dict
from nkiconv.simulate.report.html import write_html
from nkiconv.simulate.report.table import profile_table
from nkiconv.simulate.report.trace import write_trace

__all__ = ["profile_dict", "profile_table", "write_html", "write_trace"]
