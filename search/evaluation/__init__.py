"""The winners, trained again and tested once."""
