"""What every list, detail and error of the API has in common.

errors       one problem+json shape for everything that can go wrong
pagination   keyset cursors, limits and counts
limits       for how long a page may keep the database at work
filters      filters named as the field, cone search, orderings; what is unknown is refused
viewsets     the base of every resource
serializers  fields that several apps share
negotiation  formats
renderers    forms of files
parameters   what an action takes behind the `?`
parsers      bodies that can be read
files        byte ranges
schema       OpenAPI as it really is
"""
