"""Writers of the report's files beside the HTML page."""
