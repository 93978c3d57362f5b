"""The actions of users. The API and the pages share them."""
