package nstest

var modelTests []entry
