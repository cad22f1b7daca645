//go:build audit

package mongodb

import (
	"reflect"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
)

// TestAuditReadSettingsOfURI checks data A7: the URI cannot send reads to secondaries or weaken their read concern, because decisions depend on what is read.
func TestAuditReadSettingsOfURI(t *testing.T) {
	db, err := Open("mongodb://h:1/strongroom?readPreference=secondaryPreferred&readConcernLevel=available")
	if err != nil {
		return // Open can refuse the URI as well.
	}
	defer Close(db)
	// The driver has no method that returns these settings.
	settings := reflect.ValueOf(db).Elem()
	if mode := readpref.Mode(settings.FieldByName("readPreference").Elem().FieldByName("mode").Uint()); mode != readpref.PrimaryMode {
		t.Errorf("got read preference %v, want %v", mode, readpref.PrimaryMode)
	}
	if level := settings.FieldByName("readConcern").Elem().FieldByName("Level").String(); level != "majority" {
		t.Errorf("got read concern %q, want majority", level)
	}
}

// TestAuditWriteConcernErrors checks data A9: Away reports true for every write concern error, because the server may keep such a write.
func TestAuditWriteConcernErrors(t *testing.T) {
	for _, code := range []int{11601, 6, 7, 79, 133, 290, 317, 384} {
		if !Away(mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: code}}) {
			t.Errorf("write concern error %d: got false, want true", code)
		}
	}
}
