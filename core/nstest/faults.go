package nstest

var faultTests, modelTests []entry
